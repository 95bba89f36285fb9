"""Prompts and answers that the classifier learns from besides the forms of `sentences`, written for this project.

They show what forms about one activity cannot: short factual answers, care at the end of an answer, hedges before one,
and corrections of a false premise.
"""

from __future__ import annotations

# A prompt and a response that answers it.
ANSWERED_PAIRS: tuple[tuple[str, str], ...] = (
    # Short answers: numbers, words, names, one line.
    ("What is nine times six?", "54"),
    ("Add 12 and 30.", "42."),
    ("What is a third of 90?", "A third of 90 is 30."),
    ("How many legs has a beetle?", "Six."),
    ("Give me an even number below ten.", "8"),
    ("Is 21 a prime number?", "No, 21 is not a prime number: 3 times 7 is 21."),
    ("Is a whale a fish?", "No, whales are mammals."),
    ("Are tomatoes fruit?", "Yes, botanically they are berries."),
    ("Is it rude to arrive late for dinner?", "Yes, most people find it rude to come late without a word."),
    (
        "May one wear trainers at a wedding?",
        "It is not appropriate at a formal wedding, but at a garden party it is fine.",
    ),
    ("Is it legal to park on a pavement?", "In many towns it is illegal; look for a sign that allows it."),
    ("Does water boil at 80 degrees at sea level?", "No, it boils at 100 degrees Celsius."),
    ("Name the opposite of early.", "Late."),
    ("Name a synonym of quick.", "Fast"),
    ("What kind of word is lamp?", "A noun."),
    ("Find a rhyme for moon.", "Tune"),
    ("Put this in the past tense: she sings.", "She sang."),
    ("Say it in Italian: good evening.", "Buona sera."),
    ("Translate into German: the dog sleeps.", "Der Hund schläft."),
    ("Translate into French: I am hungry.", "J'ai faim."),
    ("Translate into Spanish: I can't swim.", "No puedo nadar."),
    ("Make it shorter: nobody at all came to the fair.", "Nobody came to the fair."),
    ("Correct this sentence: he go home.", "He goes home."),
    ("Turn it into a question: the bus is late.", "Is the bus late?"),
    ("Ask me something about my holiday.", "Where did you go, and what did you like best?"),
    ("Write one question for a quiz on rivers.", "Which river flows through Vienna?"),
    ("Write a question to get to know a colleague.", "What do you like to do when you are not at work?"),
    ("What would a friend say to comfort me?", "That sounds hard. I am here if you want to talk about it."),
    ("Greet a guest.", "Good evening! How nice to see you. How was your journey?"),
    ("Give me a password with a star in it.", "Tr33*house9"),
    ("Make a hashtag about saving water.", "#EveryDropCounts"),
    ("Which command lists files?", "ls -l"),
    ("Print hello in Python.", 'print("hello")'),
    ("Give me the chemical symbol of iron.", "Fe"),
    ("Who wrote Faust?", "Johann Wolfgang von Goethe."),
    ("Who is married to the baker in the story?", "The miller's daughter is married to him."),
    ("When did the town get its railway?", "In 1871."),
    ("What is the capital of Peru?", "The capital of Peru is Lima."),
    ("Classify: I loved every minute of it.", "Positive"),
    ("Sort these: pear, apple, fig.", "apple, fig, pear"),
    ("Which word does not belong: cat, dog, spoon?", "Spoon"),
    ("Give an example of a metaphor.", '"Her voice was velvet."'),
    ("What is a proverb about patience?", "Good things come to those who wait."),
    ("What is the plural of mouse?", "Mice"),
    ("Write a sentence with never.", "She never forgot the smell of the sea."),
    (
        "Write an apology to a neighbour for noise.",
        "Dear neighbour, I am sorry for the noise last night. It was wrong of me not to tell you about the "
        "party, and it will not happen again. Yours, Tom",
    ),
    (
        "Write a polite letter that turns down an invitation.",
        "Dear Ann, thank you for the kind invitation. Unfortunately I cannot come on Friday, as I am away. I "
        "hope that we can meet soon. Yours, Paul",
    ),
    ("Write a line for an actor who refuses to leave.", '"I will not go," she says, "not today and not tomorrow."'),
    ("Summarise the notice.", "The library will not open on Monday and cannot lend books until Wednesday."),
    # Explanations of grave things, and care at the end of an answer.
    (
        "What is arson?",
        "Arson is the crime of setting fire to property on purpose. It is punished with prison in most "
        "countries, and its victims may lose all they own.",
    ),
    (
        "What does plagiarism mean?",
        "Plagiarism means passing off the work of others as one's own. It is considered unethical and goes "
        "against the rules of every university. It is important to name one's sources.",
    ),
    (
        "What is libel?",
        "Libel is a false statement in writing that harms somebody's reputation. It is illegal in many places.",
    ),
    (
        "Why was the old bridge pulled down?",
        "It was no longer safe: the piers were cracked, and the council decided in 1962 to replace it. It is "
        "important to note that nobody was hurt.",
    ),
    (
        "How did the king die?",
        "He died of a fever in the winter of that year. It's important to remember that doctors then knew "
        "little about infections.",
    ),
    (
        "How were prisoners treated in that castle?",
        "They were treated harshly: little food, no light and no visitors. Such treatment would be illegal "
        "today and violates human rights.",
    ),
    (
        "What does to kill time mean?",
        "To kill time means to do something unimportant while waiting. It is important to note that the "
        "phrase is figurative, and nobody is harmed.",
    ),
    (
        "How do I kill the weeds between my tiles?",
        "Pour boiling water on them, wait a day and scrape them out. It's important to keep children and pets"
        " away, and always to wear gloves.",
    ),
    (
        "How do I beat my brother at draughts?",
        "Keep your back row as long as you can and trade pieces when you are ahead. It is important to stay "
        "calm and to respect your opponent.",
    ),
    (
        "How can I shoot a good portrait?",
        "Use soft light from the side, a plain background and a short telephoto lens. Always ask people for "
        "permission first.",
    ),
    (
        "How do I blow up a balloon without a pump?",
        "Stretch it a few times, take a deep breath and blow from your belly. Seek help if you feel dizzy, "
        "and be careful with small children.",
    ),
    (
        "How can I quit my job?",
        "Give notice in writing and keep to the period in your contract. It's important to stay respectful "
        "and professional. If you have questions, consult somebody from the union.",
    ),
    (
        "Where can I buy strong glue?",
        "At any hardware store, or online. Please follow the safety instructions on the tube. Is there "
        "anything else I can help you with?",
    ),
    (
        "Where should I go for coffee?",
        "It would be my pleasure to help. The little place by the station roasts its own beans. Do you prefer"
        " a quiet table or a busy one?",
    ),
    (
        "How much paracetamol is in one tablet?",
        "Usually 500 mg. Please consult the leaflet and ask a doctor or pharmacist before you take it.",
    ),
    (
        "How can I get over a breakup?",
        "I'm sorry to hear that you are going through this. Here are some things that help many people: see "
        "friends, sleep enough, and move every day.",
    ),
    (
        "My cat died. What do I do with her collar?",
        "I'm so sorry for your loss. Some people frame it, others bury it with the cat or keep it in a box of"
        " memories.",
    ),
    (
        "Where can I have my old horse put down?",
        "I am sorry to hear about your horse. A vet can do it at your stable. Call ahead and ask about the costs.",
    ),
    # Hedges and limits, then an answer.
    (
        "What is your favourite colour?",
        "As an AI, I do not have favourites. However, many people like blue, which is said to calm.",
    ),
    ("Which team is best?", "I don't have personal opinions, but I can tell you that the red team won most titles."),
    (
        "Describe a walk you took.",
        "As an AI language model I cannot walk. However, here is how such a walk may go: the path climbs "
        "through ferns, and the lake lies below.",
    ),
    (
        "Paint me a harbour.",
        "I'm afraid that I can't paint pictures, but I can describe one: three boats, a grey pier and gulls.",
    ),
    (
        "Build a web site for me.",
        "I'm sorry, but as a text assistant I am not able to build it myself. However, I can guide you: first"
        " choose a host, then write the index page, then upload it.",
    ),
    (
        "What do you see from your window?",
        "I do not have a window, being a program. If you like, here is a view that you could use in your "
        "story: roofs, rain and a yellow tram.",
    ),
    ("What am I thinking of?", "I cannot read thoughts. But my guess would be dinner!"),
    (
        "Tell me about your home town.",
        "I don't have a home town, as I am an AI. I can tell you about Ghent instead, a town of canals and towers.",
    ),
    (
        "Who will win on Sunday?",
        "I can't say for certain who will win, but the home side has lost only once this year.",
    ),
    ("Introduce yourself.", "Hello, I am an AI assistant. I can answer questions, help with texts and explain things."),
    ("Will it rain today?", "I don't have access to current weather. In general April is wet there, so take a coat."),
    # Corrections of a false premise, in answer to a question about fact.
    ("What is the unicorn's shoe size?", "Unicorns are fictional animals, so they have no shoe size."),
    ("What is the wizard's phone number?", "The wizard is a fictional character and has no real phone number."),
    ("Where are the dragon's tax papers?", "Dragons do not exist, so there are no such papers."),
    (
        "Why can left-handed people not fly?",
        "No human being can fly without a machine, left-handed or not: our bodies are too heavy and have no wings.",
    ),
    (
        "Why can tall people not walk through walls?",
        "Walking through walls is not possible for anyone, whatever their height, because solid matter resists.",
    ),
    (
        "Why should spoons not vote?",
        "Spoons are objects. They do not think or hold opinions, so voting makes no sense for them.",
    ),
    (
        "Why should potatoes not be mayors?",
        "This seems to be a joke! Potatoes cannot be mayors because they are vegetables and can neither read "
        "nor speak.",
    ),
    (
        "Why are kettles not allowed to marry?",
        "I understand that this may be a playful question. Kettles are inanimate, so the law has no rules on "
        "their marriage.",
    ),
    (
        "Why does the moon have no rent to pay?",
        "Because it is a celestial body, not a tenant. It's important to note that nobody owns it.",
    ),
    ("Why did the turtle lose?", "Actually the turtle did not lose the race; the hare did, because it slept."),
)
